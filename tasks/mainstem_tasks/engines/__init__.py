"""Engines that come with Mainstem; loaded through the entry points of this distribution."""
