"""What the engines of all frameworks share: what an agent is asked, and how its calls are told."""
