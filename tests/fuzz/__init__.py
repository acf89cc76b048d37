"""Fuzzing of every parser of outside bytes: python -m tests.fuzz --seconds N --target T; `test_fuzz` runs it briefly.

A parser returns a value or raises an error of our tree, in bounded time and memory. An input that did not is kept in
`corpus/TARGET/`, and is an example of the tests from then on.
"""
