"""What Mainstem is measured against: the tightest raw loop, and the design most teams write by hand."""
