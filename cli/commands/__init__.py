"""The commands and their options, a module for each section of the help."""
