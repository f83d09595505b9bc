# One image for every process: `mainstem gateway`, `mainstem worker`, `mainstem flower`.
FROM python:3.13-slim AS build
RUN python -m venv /opt/mainstem
ENV PATH=/opt/mainstem/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first: they change less often than the code, and their layer is kept.
COPY requirements/run.txt requirements/
RUN pip install --require-hashes --requirement requirements/run.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin mainstem
COPY --from=build /opt/mainstem /opt/mainstem
ENV PATH=/opt/mainstem/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MAINSTEM_HOST=0.0.0.0
USER mainstem
WORKDIR /home/mainstem
EXPOSE 8000 5555
STOPSIGNAL SIGTERM
ENTRYPOINT ["mainstem"]
CMD ["gateway"]
