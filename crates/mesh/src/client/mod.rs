//! Calls to other services: channel, discovery, retries, breakers.
