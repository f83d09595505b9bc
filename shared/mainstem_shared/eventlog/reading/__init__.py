"""Following logs for readers: pages, frames, one tail connection per 256 runs, a subscription per reader."""
