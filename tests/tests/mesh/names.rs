//! A mesh of other names than the usual. Agents are not told of them.

use kit::cluster::ClusterOptions;

use super::bench::{Bench, pa};

const CLIENT: (&str, &str) = ("front", "client");
const WEB: &str = "http://web.back.svc.cluster.local/get";

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_of_another_trust_domain_and_another_cluster_works_untouched() {
    let flags = ["--trust-domain=corp", "--cluster-id=east"];
    let control_plane_flags = flags.map(String::from).into();
    let options = ClusterOptions { control_plane_flags, ..ClusterOptions::default() };
    let bench = Bench::streams_with(options).await;
    bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
    bench.shows(CLIENT, WEB, "200").await;
    for agent in &bench.cluster.agents {
        assert!(agent.ready().await, "{}", agent.node());
        let dump = agent.config_dump().await.unwrap();
        assert_eq!(dump["config"]["trustDomain"], "corp", "{}", agent.node());
        assert_eq!(dump["config"]["clusterId"], "east", "{}", agent.node());
        for certificate in dump["certificates"].as_array().unwrap() {
            let identity = certificate["identity"].as_str().unwrap();
            assert!(identity.starts_with("spiffe://corp/ns/"), "{identity}");
            assert_eq!(certificate["state"], "Available", "{certificate}");
        }
    }
    let line = bench.logged(2, "src.identity=\"spiffe://corp/ns/front/sa/client\"").await;
    assert!(line.contains("dst.identity=\"spiffe://corp/ns/back/sa/echo\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_the_wrong_names_is_not_ready_says_why_and_sends_nothing() {
    let mut bench = Bench::streams().await;
    bench.shows(CLIENT, WEB, "200").await;
    let agent = &mut bench.cluster.agents[0].process;
    agent.kill().await.unwrap();
    agent.argv_mut().push(String::from("--network=net1"));
    agent.start().unwrap();
    let page = async || {
        let page = bench.agent(1).process.get(15021, "/healthz/ready").await?;
        Ok(page.body.contains("--network is \"net1\"").then_some(page))
    };
    let what = "the readiness page says what is wrong";
    let page = bench.cluster.wait_until(what, std::time::Duration::from_secs(30), page).await;
    assert_eq!(page.unwrap().status, 500);
    let refused = bench.curl(CLIENT, WEB).await;
    assert!(["exit 52", "exit 56"].contains(&&*refused), "{refused}");
}
