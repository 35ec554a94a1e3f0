"""The data plane: capture packets as evidence, render evidence as audio."""
