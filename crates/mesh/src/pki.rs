//! The mesh's own certificate authority, for one machine: makes what is missing and renews what grows old.
//!
//! In a cluster the certificates come from outside and only have to lie in the same files: `ca.pem`, `<service>.pem`,
//! `<service>-key.pem`.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use sensormesh_types::{Clock, Error, Result};

use crate::{Config, Identity, OPERATOR, Shutdown};

const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
const SERVICE_LIFE: Duration = Duration::from_secs(7 * 86_400);
const OPERATOR_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates begin a little in the past, because clocks differ.
const EARLIER: Duration = Duration::from_secs(300);

/// A directory of certificates: an authority, one certificate for each service, the operator's.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
    identities: Vec<Identity>,
    names: Vec<String>,
    clock: Clock,
}

impl Pki {
    /// Makes the authority and the certificates of `services` and of the operator in `config.pki_dir` where they are
    /// missing, belong to other names, or have less than half of their life left. `extra_names` are further host names
    /// and addresses the services answer at. Keys have mode 0600.
    pub fn ensure(config: &Config, services: &[&str], extra_names: &[String], clock: &Clock) -> Result<Pki> {
        let identities = services.iter().copied().chain([OPERATOR]).map(|service| config.identity(service)).collect();
        let pki = Pki { dir: config.pki_dir.clone(), identities, names: extra_names.to_vec(), clock: clock.clone() };
        pki.renew()?;
        Ok(pki)
    }

    /// Where the certificates lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Renews what has less than half of its life left. Returns the services that have a new certificate.
    pub fn renew(&self) -> Result<Vec<String>> {
        fs::create_dir_all(&self.dir).map_err(|e| at(&self.dir, e))?;
        let authority = self.authority()?;
        let mut renewed = Vec::new();
        for identity in &self.identities {
            let certificate = self.dir.join(format!("{}.pem", identity.service));
            let key = self.dir.join(format!("{}-key.pem", identity.service));
            if self.fresh(&certificate, identity) && key.exists() {
                continue;
            }
            let (certificate_pem, key_pem) = self.issue(&authority, identity)?;
            // the key first: whoever reads between the two writes finds a pair that does not fit and keeps the old one
            write_private(&key, key_pem.as_bytes()).map_err(|e| at(&key, e))?;
            write(&certificate, certificate_pem.as_bytes(), 0o644).map_err(|e| at(&certificate, e))?;
            renewed.push(identity.service.clone());
        }
        Ok(renewed)
    }

    /// Renews once an hour until `shutdown`.
    pub async fn keep(self, shutdown: Shutdown) {
        while shutdown.cut(tokio::time::sleep(Duration::from_secs(3600))).await.is_some() {
            let pki = self.clone();
            match tokio::task::spawn_blocking(move || pki.renew()).await {
                Ok(Ok(renewed)) if renewed.is_empty() => {}
                Ok(Ok(renewed)) => tracing::info!(services = renewed.join(" "), "certificates were renewed"),
                Ok(Err(error)) => tracing::error!(?error, "certificates could not be renewed"),
                Err(error) => tracing::error!(%error, "renewing certificates did not end"),
            }
        }
    }

    fn authority(&self) -> Result<Issuer<'static, KeyPair>> {
        let (certificate, key) = (self.dir.join("ca.pem"), self.dir.join("ca-key.pem"));
        if key.exists() && certificate.exists() {
            let key_pem = fs::read_to_string(&key).map_err(|e| at(&key, e))?;
            let key_pair = KeyPair::from_pem(&key_pem).map_err(|e| at(&key, e))?;
            let pem = fs::read_to_string(&certificate).map_err(|e| at(&certificate, e))?;
            return Issuer::from_ca_cert_pem(&pem, key_pair).map_err(|e| at(&certificate, e));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named("sensormesh authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        self.lives(&mut params, CA_LIFE);
        let key_pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::internal)?;
        let made = params.self_signed(&key_pair).map_err(Error::internal)?;
        write_private(&key, key_pair.serialize_pem().as_bytes()).map_err(|e| at(&key, e))?;
        write(&certificate, made.pem().as_bytes(), 0o644).map_err(|e| at(&certificate, e))?;
        Ok(Issuer::new(params, key_pair))
    }

    fn issue(&self, authority: &Issuer<'static, KeyPair>, identity: &Identity) -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&identity.service);
        params.subject_alt_names = self.names_of(identity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        self.lives(&mut params, if identity.is_operator() { OPERATOR_LIFE } else { SERVICE_LIFE });
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::internal)?;
        let certificate = params.signed_by(&key, authority).map_err(Error::internal)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn names_of(&self, identity: &Identity) -> Result<Vec<SanType>> {
        let text =
            |text: &str| text.try_into().map_err(|e: rcgen::Error| Error::invalid("name", format!("{text:?}: {e}")));
        let mut names = vec![
            SanType::URI(text(&identity.to_string())?),
            SanType::DnsName(text("localhost")?),
            SanType::DnsName(text(&identity.service)?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        for name in &self.names {
            names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(text(name)?),
            });
        }
        Ok(names)
    }

    fn lives(&self, params: &mut CertificateParams, life: Duration) {
        let now = Duration::from_secs(u64::try_from(self.clock.now_seconds()).unwrap_or(0));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(EARLIER);
        params.not_after = epoch + now + life;
    }

    /// Whether a certificate is there, was made by our authority for this identity and all names, and has more than half
    /// of its life left.
    fn fresh(&self, path: &Path, identity: &Identity) -> bool {
        let read =
            |path: &Path| fs::read(path).ok().and_then(|pem| x509_parser::pem::parse_x509_pem(&pem).ok().map(|p| p.1));
        let (Some(pem), Some(authority)) = (read(path), read(&self.dir.join("ca.pem"))) else { return false };
        let (Ok(certificate), Ok(authority)) = (pem.parse_x509(), authority.parse_x509()) else { return false };
        let (from, to) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        let alive = self.clock.now_seconds() < i64::midpoint(from, to);
        let ours = certificate.verify_signature(Some(authority.public_key())).is_ok();
        let (Ok(Some(names)), Ok(wanted)) = (certificate.subject_alternative_name(), self.names_of(identity)) else {
            return false;
        };
        let has = |wanted: &SanType| names.value.general_names.iter().any(|name| same(name, wanted));
        alive && ours && wanted.iter().all(has)
    }
}

fn same(name: &x509_parser::extensions::GeneralName<'_>, wanted: &SanType) -> bool {
    use x509_parser::extensions::GeneralName;
    match (name, wanted) {
        (GeneralName::URI(uri), SanType::URI(wanted)) => *uri == wanted.as_str(),
        (GeneralName::DNSName(dns), SanType::DnsName(wanted)) => *dns == wanted.as_str(),
        (GeneralName::IPAddress(bytes), SanType::IpAddress(IpAddr::V4(wanted))) => *bytes == wanted.octets(),
        (GeneralName::IPAddress(bytes), SanType::IpAddress(IpAddr::V6(wanted))) => *bytes == wanted.octets(),
        _ => false,
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn at(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::precondition("PKI", format!("{}: {cause}", path.display())).caused_by(cause)
}

/// Writes a file that only its owner may read, in one step.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    write(path, content, 0o600)
}

fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let suffix: [u8; 4] = sensormesh_types::random::bytes();
    let new = path.with_extension(format!("new-{:08x}", u32::from_be_bytes(suffix)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)
}
