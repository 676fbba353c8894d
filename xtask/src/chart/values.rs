//! What can be set, where it stands in the base, and what is said of it.

/// Something that can be set.
pub(super) struct Value {
    /// Its name in `values.yaml`: a group and a key, or a key.
    pub(super) path: &'static str,
    /// As `values.yaml` has it.
    pub(super) default: &'static str,
    pub(super) about: &'static str,
    /// How often each place stands in the base.
    pub(super) times: usize,
    pub(super) places: &'static [Place],
}

/// A text of the base, and what the template has instead.
pub(super) struct Place {
    pub(super) base: &'static str,
    pub(super) template: &'static str,
}

const fn place(base: &'static str, template: &'static str) -> Place {
    Place { base, template }
}

/// In the order of `values.yaml`: those of a group together.
pub(super) const VALUES: &[Value] = &[
    Value {
        path: "trustDomain",
        default: "cluster.local",
        about: "The trust domain of all identities. It cannot be changed later without new certificates for all.",
        times: 1,
        places: &[place(
            "--trust-domain=cluster.local",
            "--trust-domain={{ .Values.trustDomain }}",
        )],
    },
    Value {
        path: "clusterId",
        default: "Kubernetes",
        about: "This cluster's name in the mesh.",
        times: 1,
        places: &[place("--cluster-id=Kubernetes", "--cluster-id={{ .Values.clusterId }}")],
    },
    Value {
        path: "clusterDomain",
        default: "cluster.local",
        about: "The domain of the cluster's DNS.",
        times: 1,
        places: &[place(
            "--cluster-domain=cluster.local",
            "--cluster-domain={{ .Values.clusterDomain }}",
        )],
    },
    Value {
        path: "image.repository",
        default: "sotto",
        about: "Where the nodes pull the image from, without its tag.",
        times: 3,
        places: &[place(
            concat!("image: sotto:", env!("CARGO_PKG_VERSION")),
            "image: \"{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}\"",
        )],
    },
    Value {
        path: "image.tag",
        default: "\"\"",
        about: "Empty: the chart's own version.",
        times: 0,
        places: &[],
    },
    Value {
        path: "image.pullPolicy",
        default: "IfNotPresent",
        about: "Always, IfNotPresent or Never.",
        times: 3,
        places: &[place(
            "imagePullPolicy: IfNotPresent",
            "imagePullPolicy: {{ .Values.image.pullPolicy }}",
        )],
    },
    Value {
        path: "image.pullSecrets",
        default: "[]",
        about: "Secrets for the registry, as [{name: NAME}].",
        times: 1,
        places: &[
            place(
                "      serviceAccountName: sotto\n",
                "      serviceAccountName: sotto\n\
                 {{- with .Values.image.pullSecrets }}\n      imagePullSecrets: {{ . | toJson }}\n{{- end }}\n",
            ),
            place(
                "      serviceAccountName: sotto-control-plane\n",
                "      serviceAccountName: sotto-control-plane\n\
                 {{- with .Values.image.pullSecrets }}\n      imagePullSecrets: {{ . | toJson }}\n{{- end }}\n",
            ),
        ],
    },
    Value {
        path: "agent.memoryLimit",
        default: "2Gi",
        about: "The agent shares it out: half is for connections, 8 KiB each. Raise it for more than 131072 on a node.",
        times: 1,
        places: &[place(
            "            memory: 2Gi",
            "            memory: {{ .Values.agent.memoryLimit }}",
        )],
    },
    Value {
        path: "agent.cpuRequest",
        default: "100m",
        about: "There is no limit of CPU: throttling the agent holds up the node's mesh traffic.",
        times: 1,
        places: &[place(
            "            cpu: 100m",
            "            cpu: {{ .Values.agent.cpuRequest }}",
        )],
    },
    Value {
        path: "agent.extraArgs",
        default: "[]",
        about: "More flags of `sotto agent`, such as [--fail-open]: `sotto agent --help` has all.",
        times: 1,
        places: &[place(
            "        - --token=/var/run/secrets/tokens/istio-token\n",
            "        - --token=/var/run/secrets/tokens/istio-token\n{{- range .Values.agent.extraArgs }}\n        - {{ . | quote }}\n{{- end }}\n",
        )],
    },
    Value {
        path: "controlPlane.replicas",
        default: "2",
        about: "There is no leader: each serves.",
        times: 1,
        places: &[place("  replicas: 2", "  replicas: {{ .Values.controlPlane.replicas }}")],
    },
    Value {
        path: "controlPlane.memoryLimit",
        default: "1Gi",
        about: "A ceiling for a leak.",
        times: 1,
        places: &[place(
            "            memory: 1Gi",
            "            memory: {{ .Values.controlPlane.memoryLimit }}",
        )],
    },
];

/// `values.yaml`: every value with what is said of it.
pub(super) fn yaml() -> String {
    let mut text =
        String::from("# What can be set. The base of the kustomizations has these values.\n");
    let mut in_group = "";
    for Value { path, default, about, .. } in VALUES {
        let (group, key) = path.split_once('.').unwrap_or(("", path));
        if group != in_group {
            text.push_str(&format!("{group}:\n"));
            in_group = group;
        }
        let indent = if group.is_empty() { "" } else { "  " };
        text.push_str(&format!("{indent}# {about}\n{indent}{key}: {default}\n"));
    }
    text
}
