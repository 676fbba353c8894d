//! How we learn it: delta ADS for workloads, services and policies.
