"""The terminal: commands, chat, tables. It prints and decides nothing."""
