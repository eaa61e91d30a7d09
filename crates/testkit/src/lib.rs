//! What tests stand on: a whole system of the real program, a PostgreSQL server of their own, recorded data.

pub mod postgres;
pub mod system;
