//! How to use a cluster that was kept.

use super::print;
use crate::cluster::Cluster;

pub(super) fn tell(cluster: &Cluster) {
    let (kubeconfig, dir) = (cluster.kubeconfig(), cluster.dir());
    print(&format!(
        "
The cluster keeps running until ctrl-C. In another terminal:

  export KUBECONFIG={kubeconfig}
  kubectl get pods --all-namespaces --output wide
  kubectl exec --namespace legacy deploy/sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/1

  kubectl apply -f tests/kit/manifests/strict.yaml
  kubectl get peerauthentications --all-namespaces
  kubectl exec --namespace legacy deploy/sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/1
      curl: (56) Recv failure: Connection reset by peer

  kubectl label namespace legacy istio.io/dataplane-mode=ambient
  kubectl exec --namespace legacy deploy/sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/1

  kubectl delete -f tests/kit/manifests/strict.yaml

Without kubectl, a command in a pod is
  cargo xtask exec legacy/sleep -- COMMAND
Logs: kubectl logs, or the files
  {dir}/node1/agent.log, {dir}/control-plane.log, {dir}/node*/pods/*/*.log
An agent's own view of things:
  nsenter --net=/run/netns/kit-{id}-pod-agent-node1 curl -s http://127.0.0.1:15000/config_dump
",
        kubeconfig = kubeconfig.display(),
        dir = dir.display(),
        id = cluster.id(),
    ));
}
