// Why runs end, in words.

const ENDS = {
  user_abort: "Stopped", replaced: "Replaced by a newer message", shutdown: "Stopped: the worker shut down",
  thread_deleted: "Deleted", engine_error: "The engine failed", provider_error: "The model’s provider failed",
  worker_lost: "The worker was lost", timed_out: "It took too long", approval_expired: "Nobody decided in time",
  content_too_large: "The answer grew too large", unknown_engine: "No worker knows this engine",
  no_worker: "No worker took it in time",
};

export const ends = (reason) => ENDS[reason] ?? reason;
