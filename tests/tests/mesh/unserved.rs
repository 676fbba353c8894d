//! Services that nobody serves yet, and those who wait for them.

use super::bench::Bench;

const PAGE: (&str, &str) = ("bookinfo", "productpage-v1");
const LATE: &str = "http://late.bookinfo.svc.cluster.local:9080/details/1";
/// connect(2) was refused; of a connection that is reset afterwards curl says 56.
const REFUSED: &str = "exit 7";

/// A service of the pods of an app.
fn service_of(app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: late, namespace: bookinfo }}\n\
         spec: {{ selector: {{ app: {app} }}, ports: [{{ port: 9080 }}] }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_a_service_is_refused_as_long_as_nobody_serves_it() {
    let bench = Bench::bookinfo().await;
    for _ in 0..2 {
        bench.apply(&service_of("nobody")).await;
        bench.shows(PAGE, LATE, REFUSED).await;
        bench.apply(&service_of("details")).await;
        bench.shows(PAGE, LATE, "200").await;
    }
}
