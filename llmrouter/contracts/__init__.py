"""What a leaf must provide, as Protocols, and the values that pass between the parts."""
