//! The pocket cluster: an API server, nodes and pods, without Kubernetes.

pub mod api;
pub mod apps;
pub mod bench;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod command;
pub mod controllers;
pub mod demo;
pub mod images;
pub mod kubelet;
pub mod lab;
pub mod launch;
pub mod netns;
pub mod node;
pub mod objects;
pub mod pods;
pub mod run;
pub mod services;
pub mod tools;
pub mod topology;
pub mod wire;
