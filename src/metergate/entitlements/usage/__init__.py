"""What this host has let through and OpenMeter cannot have counted yet. The rule: docs/limits.md."""
