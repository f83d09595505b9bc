/** An answer of the gateway that is an error: a problem document (RFC 9457), with the gateway's `code`. */
export class MainstemError extends Error {
  override readonly name = "MainstemError";

  constructor(
    /** The HTTP status. */
    readonly status: number,
    /** The gateway's own code, for example `thread_busy`; `http_<status>` if something else answered. */
    readonly code: string,
    message: string,
    /** All members of the problem document. */
    readonly problem: Record<string, unknown>,
    /** Seconds after which the gateway, by its `Retry-After`, wants to be asked again; null if it does not say. */
    readonly retryAfter: number | null,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later: the store or the broker is unavailable, or a limit was reached. */
  get isTemporary(): boolean {
    return this.status >= 500 || [401, 408, 425, 429].includes(this.status);
  }
}

/** Make an error of an answer, whatever answered: a proxy in front may send pages. */
export async function failure(response: Response): Promise<MainstemError> {
  const text = await response.text().catch(() => "");
  let problem: Record<string, unknown> = {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null) problem = parsed as Record<string, unknown>;
  } catch {
    // Not JSON: the status is all there is.
  }
  const code = typeof problem["code"] === "string" ? problem["code"] : `http_${response.status}`;
  const detail = problem["detail"] ?? problem["title"];
  const seconds = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new MainstemError(
    response.status,
    code,
    typeof detail === "string" ? detail : `The gateway answered ${response.status}.`,
    problem,
    Number.isFinite(seconds) ? seconds : null,
  );
}
