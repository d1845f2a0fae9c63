"""A proposer from outside: any command, or any server that speaks the OpenAI chat protocol."""
