//! The service in a process of its own making: in-process mesh, a database of its own, a clock that is moved by hand.

use std::path::PathBuf;
use std::time::Duration;

use sensormesh_auth::{Config, MIGRATIONS, Registration, password};
use sensormesh_mesh::{Channel, Context, Listeners, LocalRegistry, Mesh, Running, Shutdown, Transport, serve};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::auth_service_client::AuthServiceClient;
use sensormesh_store::Store;
use sensormesh_testkit::given_up::GivenUp;
use sensormesh_types::{AuditQuery, AuditRecord, Clock, Error, Result, Scope};
use tempfile::TempDir;

/// 2026-01-01, in microseconds.
const START: i64 = 1_767_225_600_000_000;

pub type Client = AuthServiceClient<Channel>;

/// Which engine a test runs on. Each database is new.
pub enum Engine {
    Sqlite,
    Postgres(String),
}

pub struct System {
    engine: Engine,
    config: Config,
    pub clock: Clock,
    pub given_up: GivenUp,
    dir: TempDir,
    registry: LocalRegistry,
    edge: Mesh,
    pub auth: Mesh,
    running: Option<(Running, Shutdown)>,
}

pub fn cheap() -> Config {
    Config {
        registration: Some(Registration::Open),
        password: password::Cost { memory_kib: 64, passes: 1, lanes: 1, at_once: 2, queue: 64 },
        ..Config::default()
    }
}

fn part(registry: &LocalRegistry, service: &'static str, clock: &Clock) -> Mesh {
    let config = sensormesh_mesh::Config { transport: Transport::Plaintext, dev: true, ..Default::default() };
    Mesh::beside(registry, config, service, clock.clone()).expect("mesh")
}

impl System {
    pub async fn start(engine: Engine, config: Config) -> Self {
        let (registry, clock) = (LocalRegistry::new(), Clock::fixed(START));
        let dir = tempfile::tempdir().expect("directory");
        let config = Config {
            bootstrap_password_file: Some(dir.path().join("admin-password")),
            state_dir: Some(dir.path().join("auth")),
            ..config
        };
        let (edge, auth) = (part(&registry, "edge", &clock), part(&registry, "auth", &clock));
        let mut system =
            Self { engine, config, clock, given_up: GivenUp::default(), dir, registry, edge, auth, running: None };
        system.run().await;
        system
    }

    /// What the operator's commands need beside the running service.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub async fn store(&self) -> Store {
        let url = match &self.engine {
            Engine::Sqlite => format!("sqlite:{}", self.dir.path().join("auth.db").display()),
            Engine::Postgres(url) => url.clone(),
        };
        let config = sensormesh_store::Config::at(url);
        Store::open("auth", &config, MIGRATIONS, self.clock.clone()).await.expect("store")
    }

    /// What its log has of the tenant `default`.
    pub async fn log(&self) -> Vec<AuditRecord> {
        self.store()
            .await
            .list_audit(&Scope::tenant_of("default"), &AuditQuery { limit: 10_000, ..Default::default() })
            .await
            .expect("the log")
    }

    async fn run(&mut self) {
        let store = self.store().await;
        self.auth = part(&self.registry, "auth", &self.clock);
        let service = sensormesh_auth::start(self.config.clone(), &self.auth, store).await.expect("start");
        let service = service.around(|routes| self.given_up.around(routes));
        let shutdown = Shutdown::new();
        let running = serve(service, &self.auth, Listeners::default(), shutdown.clone()).await.expect("serve");
        self.running = Some((running, shutdown));
    }

    pub async fn stop(&mut self) {
        if let Some((running, shutdown)) = self.running.take() {
            shutdown.request();
            running.stopped().await;
        }
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.run().await;
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("admin-password")
    }

    pub fn admin_password(&self) -> String {
        std::fs::read_to_string(self.password_file()).expect("password file").trim().to_owned()
    }

    /// The way in through the edge.
    pub fn client(&self) -> Client {
        self.edge.client().expect("client")
    }

    /// The way another service takes.
    pub fn client_of(&self, service: &'static str) -> Client {
        part(&self.registry, service, &self.clock).client_as_service().expect("client")
    }

    pub async fn log_in(&self, username: &str, password: &str) -> Result<proto::CreateTokenResponse> {
        let request = proto::CreateTokenRequest {
            username: username.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        answer(self.client().create_token(request).await)
    }

    /// Logs in with a program from an address, as the edge tells of them.
    pub async fn log_in_with(&self, username: &str, user_agent: &str, address: &str) -> proto::CreateTokenResponse {
        let body = proto::CreateTokenRequest {
            username: username.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(body);
        for (name, value) in [("x-forwarded-for", address), ("x-forwarded-user-agent", user_agent)] {
            request.metadata_mut().insert(name, value.parse().expect("text"));
        }
        answer(self.client().create_token(request).await).expect("logged in")
    }

    pub async fn refresh(&self, refresh_token: &str) -> Result<proto::CreateTokenResponse> {
        let request = proto::CreateTokenRequest {
            grant_type: "refresh_token".to_owned(),
            refresh_token: refresh_token.to_owned(),
            ..Default::default()
        };
        answer(self.client().create_token(request).await)
    }

    pub async fn register(&self, username: &str, invitation: &str) -> Result<proto::User> {
        let request = proto::RegisterRequest {
            username: username.to_owned(),
            password: PASSWORD.to_owned(),
            invitation: invitation.to_owned(),
            ..Default::default()
        };
        answer(self.client().register(request).await).map(|response| response.user.expect("user"))
    }

    /// Registers a user with a role, invited by the admin.
    pub async fn invited(&self, admin: &str, username: &str, role: i32) -> proto::User {
        let request = proto::CreateInvitationRequest { role, ..Default::default() };
        let mut client = self.client();
        let invitation = answer(as_user(admin, client.create_invitation(request)).await).expect("invitation");
        self.register(username, &invitation.invitation).await.expect("registered")
    }

    pub async fn verify(&self, token: &str) -> Result<proto::VerifyTokenResponse> {
        let mut client = self.client();
        answer(as_user(token, client.verify_token(proto::VerifyTokenRequest {})).await)
    }

    pub async fn update(&self, token: &str, user: proto::User, paths: &[&str]) -> Result<proto::User> {
        let mut client = self.client();
        let request = proto::UpdateUserRequest { user: Some(user), update_mask: mask(paths) };
        answer(as_user(token, client.update_user(request)).await).map(|response| response.user.expect("user"))
    }
}

pub const PASSWORD: &str = "correct horse battery";

pub fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    (!paths.is_empty()).then(|| prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// Runs a call with a user's access token.
pub async fn as_user<F: Future>(token: &str, call: F) -> F::Output {
    let context = Context { authorization: Some(format!("Bearer {token}")), ..Context::default() };
    Context::scope(context, call).await
}

pub fn answer<T>(response: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    response.map(tonic::Response::into_inner).map_err(Error::from)
}
