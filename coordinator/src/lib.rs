//! The control plane: what is wanted. It never opens a connection to a Redis.

pub mod access;
pub mod alarm;
pub mod api;
pub mod app;
pub mod audit;
pub mod console;
pub mod election;
pub mod engine;
pub mod figures;
pub mod placement;
pub mod secret;
pub mod store;
pub mod switch;
pub mod task;
pub mod tls;
pub mod verify;
pub mod web;
