"""Version 3 of the API: metering and entitlement access (OpenMeter's api/v3)."""
