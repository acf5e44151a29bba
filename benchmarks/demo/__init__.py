"""The demonstration: real programs, real photographs, a recorded uplink, an emulated slow board."""
