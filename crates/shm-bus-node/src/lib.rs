//! The Node-API addon of shm-bus: conversion only. Everything it exports is internal to the packages of this
//! workspace; users meet the TypeScript API.

// Registration with Node.js is generated for the addon only: a test build of it uses none of these.
#![cfg_attr(test, allow(dead_code))]

mod atomics;
mod batch;
mod bus;
mod error;
mod external;
mod hot;
mod loop_waker;
mod options;
mod records;
mod subscription;
mod tasks;
mod views;
