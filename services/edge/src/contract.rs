//! The contracts as the edge needs them: every method, every route, prepared once.
//!
//! Everything here is made from a descriptor pool and from nothing else. A method that stands in a contract is a method
//! of the edge.

use std::collections::HashMap;

use bytes::Bytes;
use http::HeaderMap;
use http::uri::PathAndQuery;
use parking_lot::RwLock;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use sensormesh_observability::metrics::{self, Durations};
use sensormesh_types::{Code, Error, Result};

use crate::accept;
use crate::options::{self, Policy};
use crate::router::{Found, Router};
use crate::template::Template;
use crate::transcode::path::FieldPath;
use crate::transcode::shape::{Kind, MessageId, Shapes, Special};

/// Everything that a set of contracts says, prepared.
#[derive(Debug)]
pub struct Contract {
    /// The descriptors.
    pub pool: DescriptorPool,
    /// The same as a serialized `google.protobuf.FileDescriptorSet`.
    pub descriptors: Bytes,
    /// The messages.
    pub shapes: Shapes,
    /// Every method of every service.
    pub methods: Vec<Method>,
    /// Every route of every method.
    pub routes: Vec<Route>,
    router: Router,
    paths: HashMap<String, usize>,
}

/// One method.
#[derive(Debug)]
pub struct Method {
    /// Where it is called: `/sensormesh.rooms.v1.RoomsService/GetPlace`.
    pub path: PathAndQuery,
    /// The service's one name: `rooms`.
    pub service: String,
    /// What the contract says of it.
    pub descriptor: MethodDescriptor,
    /// The request.
    pub input: MessageId,
    /// The answer, or one message of it.
    pub output: MessageId,
    /// The caller sends many messages.
    pub client_streaming: bool,
    /// The service sends many messages.
    pub server_streaming: bool,
    /// Who may call.
    pub policy: Policy,
    /// The type of the bytes that it streams: `text/csv`; `None` = it answers messages.
    pub produces: Option<String>,
    /// The request's `cursor`: where a stream goes on.
    pub resumes_at: Option<FieldPath>,
    /// The position of the answer's `cursor`.
    pub cursor: Option<usize>,
    /// The number of the request's id by which its service knows a call that comes again: `request_id` or `batch_id`.
    pub identity: Option<u32>,
}

impl Method {
    /// Whether either side streams.
    pub fn is_stream(&self) -> bool {
        self.client_streaming || self.server_streaming
    }

    /// The types of its answers in plain HTTP.
    fn types(&self) -> impl Iterator<Item = &str> {
        let messages: &[&str] =
            if self.server_streaming { &["application/x-ndjson", "text/event-stream"] } else { &["application/json"] };
        let messages: &[&str] = if self.produces.is_some() { &[] } else { messages };
        self.produces.as_deref().into_iter().chain(messages.iter().copied())
    }
}

/// What the body of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// All of the request that the path does not name.
    Whole,
    /// One field.
    Field(FieldPath),
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The index of its method.
    pub method: usize,
    /// The HTTP method.
    pub verb: &'static str,
    /// The template, as it is written in the contract: the label of metrics and log lines.
    pub template: &'static str,
    /// The field of each variable of the template.
    pub captures: Vec<FieldPath>,
    /// What the body is.
    pub body: Body,
    /// The field of the answer that is shown; `None` = all of it.
    pub shown: Option<usize>,
    /// What is shown is a `google.api.HttpBody`: bytes with a type of their own.
    pub raw: bool,
    /// Routes of the same requests whose answers have another type: which one it is, is up to the client.
    pub others: Vec<usize>,
    durations: RwLock<Vec<(u16, Durations)>>,
}

impl Route {
    /// Counts a request of this route.
    pub fn record(&self, status: u16, elapsed: std::time::Duration) {
        let known = self.durations.read().iter().find(|(s, _)| *s == status).map(|(_, d)| d.clone());
        let durations = known.unwrap_or_else(|| {
            let made = metrics::edge_requests(self.verb, self.template, status);
            self.durations.write().push((status, made.clone()));
            made
        });
        durations.record(elapsed);
    }
}

impl Contract {
    /// Prepares the contracts of a pool, which `descriptors` is the serialized form of.
    pub fn new(pool: &DescriptorPool, descriptors: Bytes) -> Result<Self> {
        let mut contract = Contract {
            pool: pool.clone(),
            descriptors,
            shapes: Shapes::of(pool),
            methods: Vec::new(),
            routes: Vec::new(),
            router: Router::default(),
            paths: HashMap::new(),
        };
        for service in pool.services() {
            for method in service.methods() {
                contract.add(&service, &method)?;
            }
        }
        for index in 0..contract.routes.len() {
            if contract.methods[contract.routes[index].method].produces.is_some() {
                contract.stand_beside(index)?;
            }
        }
        Ok(contract)
    }

    /// The contracts this program was built with.
    pub fn built_in() -> Result<Self> {
        Self::new(sensormesh_proto::pool(), Bytes::from_static(sensormesh_proto::FILE_DESCRIPTOR_SET))
    }

    fn add(&mut self, service: &ServiceDescriptor, method: &MethodDescriptor) -> Result<()> {
        let missing = || Error::new(Code::Internal, "CONTRACT", format!("{} is incomplete", method.full_name()));
        let path = format!("/{}/{}", service.full_name(), method.name());
        let input = self.shapes.by_name(method.input().full_name()).ok_or_else(missing)?;
        let output = self.shapes.by_name(method.output().full_name()).ok_or_else(missing)?;
        let index = self.methods.len();
        self.methods.push(Method {
            path: path.parse().map_err(Error::internal)?,
            service: short_name(service.package_name()).to_owned(),
            descriptor: method.clone(),
            input,
            output,
            client_streaming: method.is_client_streaming(),
            server_streaming: method.is_server_streaming(),
            policy: options::policy(&self.pool, method),
            produces: options::produces(&self.pool, method),
            resumes_at: FieldPath::find(&self.shapes, input, "cursor").ok(),
            cursor: self.shapes.message(output).field("cursor").map(|(position, _)| position),
            identity: ["request_id", "batch_id"]
                .into_iter()
                .find_map(|name| Some(self.shapes.message(input).field(name)?.1.number)),
        });
        self.paths.insert(path, index);
        for binding in options::bindings(&self.pool, method)? {
            self.route(index, &binding)?;
        }
        Ok(())
    }

    fn route(&mut self, method: usize, binding: &options::Binding) -> Result<()> {
        let (input, output) = (self.methods[method].input, self.methods[method].output);
        let template = Template::parse(&binding.template)?;
        let captures = template.variables.iter().map(|v| FieldPath::find(&self.shapes, input, &v.field));
        let captures = captures.collect::<Result<Vec<_>>>()?;
        let body = match binding.body.as_str() {
            "" => Body::None,
            "*" => Body::Whole,
            field => Body::Field(FieldPath::find(&self.shapes, input, field)?),
        };
        let shown = match binding.response_body.as_str() {
            "" => None,
            field => Some(FieldPath::find(&self.shapes, output, field)?.place().1),
        };
        let raw = match shown.map(|position| &self.shapes.message(output).fields[position]) {
            None => self.is_http_body(output),
            Some(field) => matches!(field.kind, Kind::Message(id) if !field.is_plural() && self.is_http_body(id)),
        };
        if self.methods[method].produces.is_none() {
            self.router.add(&binding.verb, &template, self.routes.len())?;
        }
        self.routes.push(Route {
            method,
            // a contract is prepared once and lives as long as the program: its labels may, too
            verb: binding.verb.clone().leak(),
            template: binding.template.clone().leak(),
            captures,
            body,
            shown,
            raw,
            others: Vec::new(),
            durations: RwLock::default(),
        });
        Ok(())
    }

    /// Adds a route of bytes beside the one of the same requests, or on its own where there is none.
    fn stand_beside(&mut self, index: usize) -> Result<()> {
        let route = &self.routes[index];
        let template = Template::parse(route.template)?;
        match self.router.like(route.verb, &template) {
            Some(first) => self.routes[first].others.push(index),
            None => self.router.add(route.verb, &template, index)?,
        }
        Ok(())
    }

    /// The route that answers in the type that a client prefers, out of those of the same requests. The first one where it has
    /// no preference, or wants none of their types.
    pub fn preferred(&self, route: usize, headers: &HeaderMap) -> usize {
        let wanted = |index: usize| {
            let types = self.methods[self.routes[index].method].types();
            types.map(|content_type| accept::quality(headers, content_type)).max().unwrap_or_default()
        };
        let mut best = (route, wanted(route));
        for other in &self.routes[route].others {
            let wanted = wanted(*other);
            if wanted > best.1 {
                best = (*other, wanted);
            }
        }
        best.0
    }

    fn is_http_body(&self, id: MessageId) -> bool {
        self.shapes.message(id).special == Special::HttpBody
    }

    /// The message that a raw body goes to, if the route takes one: the whole request or one field.
    pub fn raw_body(&self, route: &Route) -> bool {
        match &route.body {
            Body::None => false,
            Body::Whole => self.is_http_body(self.methods[route.method].input),
            Body::Field(path) => matches!(path.field(&self.shapes).kind, Kind::Message(id) if self.is_http_body(id)),
        }
    }

    /// The method at a gRPC path.
    pub fn method(&self, path: &str) -> Option<&Method> {
        self.paths.get(path).map(|index| &self.methods[*index])
    }

    /// The route of an HTTP request.
    pub fn find(&self, verb: &str, path: &str) -> Found {
        // what a HEAD request would get is what a GET request gets
        self.router.find(if verb == "HEAD" { "GET" } else { verb }, path)
    }

    /// The services behind the edge, by their one name, in alphabetical order.
    pub fn services(&self) -> Vec<String> {
        let mut names: Vec<String> = self.methods.iter().map(|method| method.service.clone()).collect();
        names.sort();
        names.dedup();
        names.retain(|name| !matches!(name.as_str(), "edge" | "mesh"));
        names
    }
}

/// `sensormesh.rooms.v1` is the package of `rooms`.
fn short_name(package: &str) -> &str {
    let is_version =
        |part: &&str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    package.rsplit('.').find(|part| !is_version(part)).unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_contracts_are_prepared() {
        let contract = Contract::built_in().expect("the contracts");
        let Found::Route(route, texts) = contract.find("GET", "/v1/rooms/hall/metrics") else { panic!("a route") };
        assert_eq!(texts, ["hall"]);
        let route = &contract.routes[route];
        assert_eq!(contract.methods[route.method].descriptor.name(), "GetRoomMetrics");
        assert_eq!(contract.methods[route.method].service, "rooms");
        assert_eq!(contract.methods[route.method].policy.min_role, Some(sensormesh_types::Role::Viewer));
        assert!(contract.method("/sensormesh.mesh.v1.MeshService/GetStatus").is_some());
        assert!(contract.services().contains(&"telemetry".to_owned()));
    }

    #[test]
    fn the_policies_are_those_of_the_built_in_table() {
        let contract = Contract::built_in().expect("the contracts");
        assert_eq!(contract.methods.len(), sensormesh_proto::METHODS.len());
        for method in &contract.methods {
            let known = sensormesh_proto::method(method.path.path()).expect("a method of the table");
            let policy = &known.policy;
            assert_eq!((method.service.as_str(), method.is_stream()), (known.service, known.is_stream()));
            assert_eq!(method.policy.public, policy.public, "{}", known.path);
            assert_eq!(method.policy.min_role, policy.min_role, "{}", known.path);
            assert_eq!(method.policy.deadline, policy.deadline, "{}", known.path);
            assert_eq!(method.policy.cost, policy.cost, "{}", known.path);
        }
        let routes: usize = sensormesh_proto::METHODS.iter().map(|m| m.routes.len()).sum();
        assert_eq!(contract.routes.len(), routes);
    }
}
