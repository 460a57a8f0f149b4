"""Meters API requests as CloudEvents for OpenMeter and lets in only whom an OpenMeter entitlement allows."""
