//! Reaching a running system from the command line: its address, a channel, a token.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sensormesh_proto::auth::v1::CreateTokenRequest;
use sensormesh_proto::auth::v1::auth_service_client::AuthServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::cli::Server;

/// The name of the file with the first password, in the data directory.
pub const ADMIN_PASSWORD_FILE: &str = "admin-password";

/// A channel to the edge that sends a token with every call.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer …`, where the certificate does not say who calls.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// The edge's address: the one given, or this machine's.
pub fn url(server: &Server, port_base: u16) -> String {
    server.url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{port_base}")).trim_end_matches('/').to_owned()
}

/// Connects to the edge and logs in: with the token file, `SENSORMESH_TOKEN`, or the data directory's first password.
pub async fn connect(server: &Server, port_base: u16, data_dir: &Path) -> Result<Authorized> {
    let channel = channel(server, &url(server, port_base)).await?;
    let token = match (&server.token_file, std::env::var("SENSORMESH_TOKEN")) {
        (Some(file), _) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?.trim().to_owned()
        }
        (None, Ok(token)) => token,
        (None, Err(_)) => log_in(channel.clone(), data_dir).await?,
    };
    let header = format!("Bearer {token}").parse().context("the token is not one that can be sent")?;
    Ok(InterceptedService::new(channel, Bearer(Some(header))))
}

/// A channel to a service's own port on this machine, with the operator's certificate. It connects when it is used, and again
/// whenever the connection is lost.
pub fn as_operator(pki: &Path, port: u16) -> Result<Authorized> {
    let read = |name: &str| {
        let file = pki.join(name);
        std::fs::read(&file).with_context(|| format!("cannot read {}; is it this system's directory?", file.display()))
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(Identity::from_pem(read("operator.pem")?, read("operator-key.pem")?))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .tls_config(tls)?;
    Ok(InterceptedService::new(endpoint.connect_lazy(), Bearer(None)))
}

async fn channel(server: &Server, url: &str) -> Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url:?} is not an address"))?
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("sensormesh/", env!("CARGO_PKG_VERSION")))?;
    if url.starts_with("https://") {
        let tls = ClientTlsConfig::new();
        let tls = match &server.ca {
            Some(file) => {
                let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => bail!("name the certificate authority to trust with --ca"),
        };
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await.with_context(|| format!("{url} does not answer; is the system up?"))
}

async fn log_in(channel: Channel, data_dir: &Path) -> Result<String> {
    let file = data_dir.join(ADMIN_PASSWORD_FILE);
    let password = std::fs::read_to_string(&file).with_context(|| {
        format!("there is no {}; give a token with --token-file or SENSORMESH_TOKEN", file.display())
    })?;
    let request = CreateTokenRequest {
        username: "admin".to_owned(),
        password: password.trim().to_owned(),
        ..CreateTokenRequest::default()
    };
    let answer = AuthServiceClient::new(channel).create_token(request).await.map_err(in_words)?;
    Ok(answer.into_inner().access_token)
}

/// A status as a person reads it.
pub fn in_words(status: Status) -> anyhow::Error {
    let error = sensormesh_types::Error::from(status);
    anyhow::anyhow!("{} ({})", error.message(), error.reason())
}
