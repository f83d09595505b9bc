"""`make demo`: a guided proof on free ports that leaves nothing behind. Not imported by anything else."""
