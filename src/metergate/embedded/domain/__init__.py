"""The rules of metering and entitlements as plain functions over plain values: no clock, no SQL, no HTTP."""
