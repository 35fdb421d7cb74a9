//! The Node-API addon of shm-bus: conversion only. Everything it exports is internal to the packages of this
//! workspace; users meet the TypeScript API.

mod atomics;
mod bus;
mod error;
mod external;
mod hot;
mod loop_waker;
mod records;
mod subscription;
mod tasks;
mod views;
