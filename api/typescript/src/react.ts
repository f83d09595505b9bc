/** React: `useRun` follows one run for a component. */

import { useCallback, useEffect, useState } from "react";

import type { Mainstem } from "./client.js";
import type { ConnectionState } from "./following.js";
import { RunState } from "./fold.js";
import type { AbortReply, ResumeRequest, Run } from "./openapi.js";

export interface UseRun {
  /** The run as of its last event. */
  run: RunState;
  /** The state of the connection; `ended` after the run's end, or an error. */
  connection: ConnectionState | "ended";
  /** Why the run cannot be followed, for example because it is not yours. */
  error: unknown;
  abort: () => Promise<AbortReply>;
  resume: (decision: ResumeRequest) => Promise<Run>;
}

const NOTHING = new RunState();

/**
 * Follow a run while the component is mounted; null follows none. However many events come between two frames, the
 * component is rendered once.
 */
export function useRun(client: Mainstem, runId: string | null): UseRun {
  const [run, setRun] = useState(NOTHING);
  const [connection, setConnection] = useState<UseRun["connection"]>("connecting");
  const [error, setError] = useState<unknown>(null);

  useEffect(() => {
    setRun(NOTHING);
    setError(null);
    if (runId === null) return;
    const controller = new AbortController();
    let scheduled = false;
    const show = (state: RunState) => {
      scheduled = false;
      if (!controller.signal.aborted) setRun(state.copy());
    };
    const read = async () => {
      for await (const state of client.follow(runId, { signal: controller.signal, onConnection: setConnection })) {
        if (state.isOver) show(state);
        else if (!scheduled) {
          scheduled = true;
          requestAnimationFrame(() => show(state));
        }
      }
    };
    read()
      .catch((problem: unknown) => {
        if (!controller.signal.aborted) setError(problem);
      })
      .finally(() => {
        if (!controller.signal.aborted) setConnection("ended");
      });
    return () => controller.abort();
  }, [client, runId]);

  const abort = useCallback(() => client.abort(runId ?? ""), [client, runId]);
  const resume = useCallback((decision: ResumeRequest) => client.resume(runId ?? "", decision), [client, runId]);
  return { run, connection, error, abort, resume };
}
