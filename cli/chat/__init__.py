"""The interactive chat: input, display of answers, commands, saved chats. Independent of models."""
