"""Classical baselines that an honest kit compares with."""
