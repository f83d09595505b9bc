"""`install` on a user's app: what it adds, what it leaves alone, and what it says about settings that break promises."""

from __future__ import annotations

import os

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

import mainstem_workers
from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support.publisher import GENERATE
from mainstem_tasks.tasks import SUBMIT
from mainstem_workers import configuration_checks, installation
from mainstem_workers.pool import PoolOptions
from mainstem_workers.pool_support import Pool

URL = "redis://127.0.0.1:1/1"
STORE = "redis://127.0.0.1:1/0"


@pytest.fixture
def make_app():
    made = []

    def make(settings=None, **conf):
        app = Celery("proj", broker=URL, set_as_current=False)
        made.append(app)
        app.conf.update(conf)
        mainstem_workers.install(app, settings or Settings(redis_url=STORE))
        return app

    yield make
    for app in made:
        app.close()


def broken(app, pool=Pool.ASYNCIO):
    return {found.setting for found in configuration_checks.check(app, pool)}


def test_tasks_and_defaults_are_added(make_app):
    """An app gets our tasks, early acks, no prefetching, and the broker's address goes into our settings."""
    app = make_app()
    assert {GENERATE, SUBMIT} <= set(app.tasks)
    assert not app.tasks[GENERATE].acks_late
    assert app.conf.worker_disable_prefetch
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.mainstem_settings.broker_url.get_secret_value() == URL
    assert configuration_checks.check(app) == []


def test_configuration_of_the_app_is_respected(make_app):
    """What the application sets, before or after `install`, stays; what it does not, keeps Celery's default."""
    app = make_app(worker_prefetch_multiplier=7, task_acks_late=True)
    app.conf.worker_disable_prefetch = False
    assert app.conf.worker_prefetch_multiplier == 7
    assert app.conf.task_acks_late
    assert not app.conf.worker_disable_prefetch
    assert not app.tasks[GENERATE].acks_late
    plain = Celery(set_as_current=False)
    for name in ("task_ignore_result", "worker_send_task_events", "worker_hijack_root_logger", "worker_pool"):
        assert app.conf[name] == plain.conf[name]
    plain.close()


def test_configuration_loaded_later_gets_the_defaults_too():
    """`install` before `config_from_object`, as in projects that configure late, works as after it."""
    app = Celery("proj", set_as_current=False)
    installation.install(app, Settings(redis_url=STORE))
    assert not app.configured
    app.config_from_object({"broker_url": URL, "worker_prefetch_multiplier": 3})
    assert app.conf.worker_prefetch_multiplier == 3
    assert app.conf.worker_disable_prefetch
    app.config_from_object({"broker_url": URL, "task_default_queue": "ours"}, force=True)
    assert app.conf.worker_disable_prefetch
    assert app.conf.mainstem_settings.redis_url.get_secret_value() == STORE
    app.close()


def test_installing_twice_changes_nothing(make_app):
    """A second `install` returns the first one's settings."""
    app = make_app()
    before = dict(app.conf)
    again = mainstem_workers.install(app, Settings(redis_url=STORE, drain_s=99))
    assert again == app.conf.mainstem_settings
    assert dict(app.conf) == before
    assert isinstance(app.conf.mainstem_pool, PoolOptions)
    assert len(app.steps["worker"]) == 1


@pytest.mark.parametrize("version", ["5.6.2", "5.8.0", "6.0.0rc1", "5.70.1"])
def test_unproven_celery_is_refused(version):
    """A Celery release that the pool was not proven on is refused by name."""
    with pytest.raises(ImproperlyConfigured, match=rf"Celery 5\.7, and this is Celery {version}.*<5\.8"):
        installation.require_proven(version)


def test_install_refuses_before_it_changes_anything(monkeypatch):
    """On such a Celery `install` raises, and the app is as it was."""
    monkeypatch.setattr("celery.__version__", "5.8.0")
    app = Celery("proj", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r"this is Celery 5\.8\.0"):
        mainstem_workers.install(app)
    assert not app.steps["worker"]
    assert not app.configured
    app.close()


def test_proven_celery_is_taken():
    """All of 5.7 will do."""
    installation.require_proven("5.7.0")
    installation.require_proven("5.7.12")


def test_limits_of_the_app_are_for_its_own_tasks(make_app):
    """Global time limits, meant for short tasks, do not end runs; annotations naming our task do, with a warning."""
    app = make_app(task_time_limit=60, task_soft_time_limit=50)
    task = app.tasks[GENERATE]
    assert task.time_limit > 3600
    assert task.soft_time_limit > 3600
    assert broken(app) == set()
    annotated = make_app(task_annotations={GENERATE: {"time_limit": 60}})
    assert annotated.tasks[GENERATE].time_limit == 60
    assert broken(annotated) == {"time_limit"}


@pytest.mark.parametrize(
    ("conf", "setting"),
    [
        ({"task_annotations": {"*": {"acks_late": True}}}, "acks_late"),
        ({"task_annotations": {"*": {"reject_on_worker_lost": True}}}, "reject_on_worker_lost"),
        ({"task_annotations": {"*": {"rate_limit": "10/m"}}}, "rate_limit"),
        ({"task_annotations": {"*": {"ignore_result": False}}}, "ignore_result"),
        ({"worker_disable_prefetch": False}, "worker_disable_prefetch"),
        ({"accept_content": ["pickle"]}, "accept_content"),
        ({"broker_transport_options": {"global_keyprefix": "x"}}, "broker_transport_options"),
    ],
)
def test_settings_that_break_a_guarantee_are_named(make_app, conf, setting):
    """Each such setting is reported once, with what follows from it and what to do."""
    app = make_app(**conf)
    [found] = configuration_checks.check(app)
    assert found.setting == setting
    assert found.consequence.endswith(".")
    assert found.remedy.endswith(".")


def test_another_broker_is_reported(make_app):
    """Clients that publish where no worker listens are reported."""
    app = make_app(Settings(redis_url=STORE, broker_url="redis://127.0.0.1:1/9"))
    assert broken(app) == {"broker_url"}


def test_prefetching_matters_on_other_brokers_too(make_app):
    """On RabbitMQ, where prefetching cannot be turned off, the multiplier must be one."""
    app = make_app(broker_url="amqp://guest@127.0.0.1:1//", worker_prefetch_multiplier=4)
    assert broken(app) == {"worker_prefetch_multiplier"}


def test_a_worker_without_the_queue_for_runs(make_app):
    """The asyncio pool on a worker that gets no runs is a mistake; another pool there is not."""
    app = make_app(task_default_queue="ours")
    assert broken(app) == {"queues ours"}
    assert broken(app, Pool.PREFORK) == set()


@pytest.mark.parametrize("pool", [Pool.THREADS, Pool.PREFORK, Pool.SOLO])
def test_limits_of_pools_are_told(make_app, pool):
    """A pool that cannot give everything says so."""
    assert broken(make_app(), pool) == {f"--pool {pool}"}


CORES = os.cpu_count() or 1


def test_celerys_own_default_of_slots_is_told(make_app):
    """A worker on the asyncio pool with a slot per core was started without --concurrency; chosen, it is right."""
    assert [found.setting for found in configuration_checks.check(make_app(), concurrency=CORES)] == [
        "--concurrency"
    ]
    assert configuration_checks.check(make_app(), concurrency=1000) == []
    assert configuration_checks.check(make_app(worker_concurrency=CORES), concurrency=CORES) == []


BACKEND = {"result_backend": "redis://127.0.0.1:1/2", "worker_send_task_events": True}


@pytest.mark.parametrize(
    ("conf", "setting"),
    [
        ({"task_acks_late": True}, "visibility_timeout"),
        ({"task_acks_late": True, "task_time_limit": 7200}, "visibility_timeout"),
        (BACKEND, "task_track_started"),
        ({**BACKEND, "task_track_started": True, "result_expires": None}, "result_expires"),
        ({"worker_max_tasks_per_child": 100}, "worker_max_tasks_per_child"),
        ({"worker_max_memory_per_child": 100_000}, "worker_max_memory_per_child"),
        ({"worker_send_task_events": False}, "worker_send_task_events"),
        ({"worker_enable_remote_control": False}, "worker_enable_remote_control"),
    ],
)
def test_what_own_tasks_do_not_have_is_noted(make_app, conf, setting):
    """Such settings break nothing for runs; each is noted once, with what follows from it and what to do."""
    app = make_app(**{"worker_send_task_events": True, **conf})
    assert configuration_checks.check(app) == []
    [note] = configuration_checks.notes(app)
    assert note.setting == setting
    assert note.consequence.endswith(".")
    assert note.remedy.endswith(".")


def test_what_is_in_order_is_not_noted(make_app):
    """Late acks below the visibility timeout, tracked results, prefork's own recycling, events by option."""
    late = {"task_acks_late": True, "task_time_limit": 300}
    app = make_app(**late, **BACKEND, task_track_started=True, worker_max_tasks_per_child=9)
    assert configuration_checks.notes(app, Pool.PREFORK) == []
    assert configuration_checks.notes(make_app(), events=True) == []
