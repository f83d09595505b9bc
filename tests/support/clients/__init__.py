"""Readers and clients that believe nothing they are told."""
