//! The pocket cluster's API server: enough of Kubernetes for real `kubectl`, for the `kube` crate, and for agents.
//!
//! In: objects, over HTTPS or through [`Store`]. Out: the same, with watches, discovery, tables, tokens.
//! Invariant: all objects live under one lock; each change has one revision and one place in its resource's history.
//!
//! Differs from a real one: everyone who is known may do everything (it is recorded, see [`ApiServer::usage`]); CEL
//! rules, `pattern` and `format` of custom resources are not checked; server-side apply does not track managers;
//! lists come whole, whatever `limit` says; dependents go at once with their last owner.

mod admission;
mod body;
mod cascade;
mod clock;
mod columns;
mod defaults;
mod definition;
mod discovery;
mod error;
mod exec;
mod guards;
mod json;
mod jsonpath;
mod lifecycle;
mod listen;
mod logs;
mod names;
mod objects;
mod patch;
mod protobuf;
mod reaper;
mod reply;
mod request;
mod resource;
mod reviews;
mod rules;
mod runtime;
mod scale;
mod schema;
mod selector;
mod server;
mod services;
mod state;
mod store;
mod strategic;
mod table;
mod tls;
mod tokens;
mod typed;
mod usage;
mod validate;
mod watch;
mod watching;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use ipnet::Ipv4Net;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{ApiError, FieldError};
pub use lifecycle::{DeleteOptions, Propagation};
pub use runtime::{ContainerRef, Exec, PodRuntime, run};
pub use store::Store;
pub use tokens::{API_AUDIENCE, Account, Identity, PodBinding};
pub use typed::{Typed, TypedEvent, TypedWatch};
pub use usage::Usage;
pub use watch::{Event, Watch};

use state::{Place, State};

/// How long a stopping server waits for its connections.
const FAREWELL: Duration = Duration::from_secs(2);

/// How an API server is to be.
#[derive(Debug)]
pub struct ApiConfig {
    /// Where it listens; a listener may come from another network namespace.
    pub listeners: Vec<TcpListener>,
    /// Names and addresses of its certificate, besides those of the listeners and of every API server.
    pub sans: Vec<String>,
    /// Where Service addresses come from.
    pub service_cidr: Ipv4Net,
    /// Who runs the pods; without it `kubectl exec` and `kubectl logs` are refused.
    pub pods: Option<Arc<dyn PodRuntime>>,
}

impl ApiConfig {
    /// Listens there, with Services in 10.96.0.0/16.
    pub fn new(listeners: Vec<TcpListener>) -> Self {
        let service_cidr = Ipv4Net::new_assert([10, 96, 0, 0].into(), 16);
        Self { listeners, sans: Vec::new(), service_cidr, pods: None }
    }

    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn loopback() -> std::io::Result<Self> {
        Ok(Self::new(vec![TcpListener::bind(("127.0.0.1", 0))?]))
    }
}

/// A running API server; it ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    api: Arc<server::Api>,
    acceptor: listen::Acceptor,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    ca_pem: String,
    admin_token: String,
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server on a thread of its own.
    ///
    /// # Errors
    /// A listener or a name that cannot be used, or no thread.
    pub fn start(config: ApiConfig) -> anyhow::Result<Self> {
        let addresses: Vec<SocketAddr> = config
            .listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .context("address of a listener")?;
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let tls = tls::identity(&config.sans, &ips)?;
        let mut state = State::new(config.service_cidr, tls.ca_pem.clone());
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            furnish(&mut state, name)?;
        }
        let tokens = tokens::Tokens::default();
        let admin_token = tokens.mint_user("kubernetes-admin", &["system:masters"]);
        let api = Arc::new(server::Api {
            store: Store::new(state),
            tokens,
            usage: usage::UsageLog::default(),
            pods: config.pods,
            stop: CancellationToken::new(),
        });
        let tasks = TaskTracker::new();
        let acceptor = listen::Acceptor::new(Arc::clone(&api), tls.config, tasks.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("make a runtime")?;
        let handle = runtime.handle().clone();
        let (stop, waiting) = (api.stop.clone(), tasks.clone());
        let thread = std::thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    stop.cancelled().await;
                    if tokio::time::timeout(FAREWELL, waiting.wait()).await.is_err() {
                        tracing::warn!("connections left behind");
                    }
                });
            })
            .context("start the server's thread")?;
        let this = Self {
            api,
            acceptor,
            runtime: handle,
            tasks,
            ca_pem: tls.ca_pem,
            admin_token,
            addresses,
            thread: Some(thread),
        };
        let reaper = reaper::run(this.api.store.clone(), this.api.stop.clone());
        this.tasks.spawn_on(reaper, &this.runtime);
        for listener in config.listeners {
            this.listen(listener);
        }
        Ok(this)
    }

    /// Serves on one more listener. The certificate stays as it is: name the address in [`ApiConfig::sans`].
    pub fn listen(&self, listener: TcpListener) {
        self.tasks.spawn_on(self.acceptor.clone().run(listener), &self.runtime);
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.api.store
    }

    /// The addresses of the listeners it was started with.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// `https://` and the first listener's address.
    pub fn url(&self) -> String {
        self.addresses.first().map(|address| format!("https://{address}")).unwrap_or_default()
    }

    /// The certificate to trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The token of `kubernetes-admin`.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Makes a token for a service account; no audience means the API's own ([`API_AUDIENCE`]).
    ///
    /// # Errors
    /// `NotFound` if there is no such account.
    pub fn mint_token(
        &self,
        (namespace, account): (&str, &str),
        pod: Option<PodBinding>,
        audiences: &[&str],
        ttl: Duration,
    ) -> Result<String, ApiError> {
        let resource = self.api.store.resource("serviceaccounts")?;
        let place = Place::new(&resource, namespace, account);
        let found = self.api.store.with(|state| state.get(&place))?;
        let audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let account = reviews::account_of(&place, &found);
        Ok(self.api.tokens.mint(account, pod, audiences, seconds))
    }

    /// The rights that a user (as `system:serviceaccount:istio-system:sotto`) has used over HTTP.
    pub fn usage(&self, user: &str) -> Vec<Usage> {
        self.api.usage.of(user)
    }

    /// A kubeconfig for this server with a token.
    pub fn kubeconfig(&self, server_url: &str, token: &str) -> String {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        // JSON is YAML: no writer is needed.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "pocket",
            "clusters": [{"name": "pocket", "cluster": {
                "server": server_url, "certificate-authority-data": ca,
            }}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "pocket", "context": {"cluster": "pocket", "user": "user"}}],
        });
        format!("{config:#}\n")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.api.stop.cancel();
        self.tasks.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server's thread panicked");
        }
    }
}

fn furnish(state: &mut State, namespace: &str) -> Result<(), ApiError> {
    let Some(resource) = state.registry.get("", "namespaces") else { return Ok(()) };
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    state.create(&resource, "", object).map(|_| ())
}
