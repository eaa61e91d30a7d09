//! `ServiceClient` for every generated client.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::{Method, names};

/// The largest answer a client takes. Twice what a server sends at most.
const DECODE_LIMIT: usize = 16 * 1024 * 1024;

/// Writes the implementations.
pub(crate) fn emit(methods: &[Method]) -> String {
    let services: BTreeSet<_> = methods.iter().map(|m| (&m.package, &m.service_ident, &m.service)).collect();
    let mut out = String::new();
    for (package, ident, service) in services {
        let client = names::client(package, ident);
        let _ = write!(
            out,
            "impl<T> crate::ServiceClient<T> for {client}<T>\n\
             where\n\
             T: tonic::client::GrpcService<tonic::body::Body>,\n\
             T::Error: Into<tonic::codegen::StdError>,\n\
             T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,\n\
             <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,\n\
             {{\n\
             const SERVICE: &'static str = {service:?};\n\
             fn over(channel: T) -> Self {{ Self::new(channel).max_decoding_message_size({DECODE_LIMIT}) }}\n\
             }}\n"
        );
    }
    out
}
