"""What the parts of a circuit do: attention, kinds of heads, what they read and write, and a description of a whole circuit."""
