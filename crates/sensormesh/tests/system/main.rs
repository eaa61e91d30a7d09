//! The real program from outside, in one process and split over mutual TLS. Every scenario runs in both shapes.

#![allow(missing_docs)]

mod backup;
mod bits;
mod commissioning;
mod crash;
mod disk;
mod edges;
mod failure;
mod fairness;
mod faults;
mod identity;
mod isolation;
mod life;
mod load;
mod losses;
mod machines;
mod matrix;
mod network;
mod operator;
mod people;
mod powercut;
mod readings;
mod recordings;
mod replicas;
mod resilience;
mod spool;
mod streams;

use sensormesh_testkit::system::{Builder, Shape, System};

/// A builder for the program under test.
fn builder(shape: Shape) -> Builder {
    Builder::new(env!("CARGO_BIN_EXE_sensormesh"), shape)
}

/// A running system of that shape.
async fn start(shape: Shape) -> System {
    builder(shape).start().await.expect("the system starts")
}

/// Makes a test of a scenario for each shape: `both_shapes!(name)` runs `async fn name(shape: Shape)`.
macro_rules! both_shapes {
    ($($scenario:ident),+ $(,)?) => {
        mod in_one_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(sensormesh_testkit::system::Shape::OneProcess).await;
            })+
        }
        mod split {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(sensormesh_testkit::system::Shape::Split).await;
            })+
        }
    };
}
use both_shapes;
