"""Several nodes as one recorder: who lives, who owns which session, and how one passes from node to node."""
