//! Faults of the catalogue, each with its number in the name of its test. What takes long is ignored here and run by
//! `make test-faults`.

mod abuse;
mod busy;
mod calls;
mod certificates;
mod conformance;
mod floods;
mod latency;
mod links;
mod raw;
mod readers;
mod storms;
mod time;
