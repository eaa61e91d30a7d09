//! Whose certificate it is: the chain by webpki, the identity by its one SPIFFE URI.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sensormesh_types::{Error, Result};
use x509_parser::extensions::GeneralName;

use super::provider;
use crate::Identity;

/// The identity a certificate names: exactly one URI among its names, and that a SPIFFE id of a service.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity> {
    read(certificate).map(|(identity, _)| identity)
}

/// Whose a certificate is, and from when to when it is good, seconds since the Unix epoch.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<(Identity, (i64, i64))> {
    let unreadable = |_| Error::invalid("certificate", "cannot be read");
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| unreadable(e.to_string()))?;
    if parsed.is_ca() {
        return Err(Error::invalid("certificate", "is an authority's and proves no service"));
    }
    let names = parsed.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let validity = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok((uri.parse()?, validity)),
        _ => Err(Error::invalid("certificate", "must name exactly one SPIFFE id")),
    }
}

/// Whether our own certificate is one that others will accept.
pub(super) fn chain(roots: &RootCertStore, chain: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
    let Some((leaf, rest)) = chain.split_first() else { return Err(CertificateError::BadEncoding.into()) };
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, rest, UnixTime::now(), algorithms)
}

/// Refuses a server that is not exactly the one that was meant.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    expected: Identity,
}

impl ServerVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Identity) -> Self {
        Self { roots, expected }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match identity_of(end_entity) {
            Ok(identity) if identity == self.expected => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Refuses a client without a certificate of our authority and a service's identity in our trust domain. Which service
/// may do what is decided call by call.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
    /// When a refusal was logged, seconds since the Unix epoch.
    told: AtomicU64,
}

impl ClientVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: String) -> Result<Self> {
        let webpki = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(Error::internal)?;
        Ok(Self { webpki, trust_domain, told: AtomicU64::new(0) })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.webpki.verify_client_cert(end_entity, intermediates, now);
        let verified = verified.and_then(|verified| match identity_of(end_entity) {
            Ok(identity) if identity.trust_domain == self.trust_domain => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        });
        // once a second is enough to find out, and no flood of the log
        if let Err(error) = &verified
            && now.as_secs() != self.told.swap(now.as_secs(), Ordering::Relaxed)
        {
            let claimed = identity_of(end_entity);
            let claimed = claimed.map_or_else(|error| error.to_string(), |identity| identity.to_string());
            let claimed: String = claimed.chars().take(200).collect();
            tracing::warn!(claimed, %error, "a caller's certificate was refused");
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
