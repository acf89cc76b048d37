"""Who is here: discovery, addresses, greetings, and what each node offers."""
