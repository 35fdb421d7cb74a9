//! The Node-API addon of shm-bus: conversion only. Everything it exports is internal to the packages of this
//! workspace; users meet the TypeScript API.

mod atomics;
