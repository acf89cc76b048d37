"""The interactive chat: lines read, answers shown, commands, saved chats. Knows nothing of models."""
