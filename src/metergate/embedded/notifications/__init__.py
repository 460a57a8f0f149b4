"""Telling others what became of entitlements, as OpenMeter and Svix do: watch, then deliver."""
