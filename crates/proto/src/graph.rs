//! Who calls whom, as the policies say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::{METHODS, Method, SERVICES};

/// The service that every process mounts; it has no address of its own and calls nobody.
const MESH: &str = "mesh";
/// The service that forwards users to every other one.
const EDGE: &str = "edge";

/// Each service with the services it may call. A service that no contract lets call is there with an empty set.
///
/// `edge` may call every service, because it forwards users; what it may do there is the user's policy. Calls within a
/// service are left out.
pub fn graph() -> &'static BTreeMap<&'static str, BTreeSet<&'static str>> {
    static GRAPH: LazyLock<BTreeMap<&'static str, BTreeSet<&'static str>>> = LazyLock::new(|| of(METHODS));
    &GRAPH
}

fn of(methods: &'static [Method]) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let services: BTreeSet<&str> = SERVICES.iter().map(|(short, _)| *short).filter(|s| *s != MESH).collect();
    let mut graph: BTreeMap<_, BTreeSet<_>> = services.iter().map(|s| (*s, BTreeSet::new())).collect();
    for method in methods {
        for caller in &services {
            let forwards = *caller == EDGE && method.service != EDGE;
            if *caller != method.service && (forwards || method.policy.admits_service(caller)) {
                graph.entry(caller).or_default().insert(method.service);
            }
        }
    }
    graph
}

/// The services in an order in which each comes after all that it calls.
///
/// # Errors
///
/// The services of a circle, if the contracts contain one.
pub fn start_order() -> Result<Vec<&'static str>, Vec<&'static str>> {
    order(graph())
}

fn order(graph: &BTreeMap<&'static str, BTreeSet<&'static str>>) -> Result<Vec<&'static str>, Vec<&'static str>> {
    let mut left: BTreeSet<&str> = graph.keys().copied().collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready: Vec<_> = left.iter().copied().filter(|s| graph[s].is_disjoint(&left)).collect();
        if ready.is_empty() {
            return Err(left.into_iter().collect());
        }
        for service in ready {
            left.remove(service);
            order.push(service);
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_named() {
        let graph = BTreeMap::from([
            ("a", BTreeSet::from(["b"])),
            ("b", BTreeSet::from(["c"])),
            ("c", BTreeSet::from(["b"])),
            ("d", BTreeSet::new()),
        ]);
        assert_eq!(order(&graph), Err(vec!["a", "b", "c"]));
    }

    #[test]
    fn whoever_is_called_starts_first() {
        let graph = BTreeMap::from([("a", BTreeSet::from(["b"])), ("b", BTreeSet::new())]);
        assert_eq!(order(&graph), Ok(vec!["b", "a"]));
    }
}
