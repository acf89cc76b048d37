"""Tests: they mirror the packages. What several of them need stands beside them."""
