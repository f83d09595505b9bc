"""Queries list runs: `listings` whole ones, `summaries` without content. One run: `run_states.get_run`."""
