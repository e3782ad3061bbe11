"""The lecture's optimizers, 5.1 to 5.8, transcribed in NumPy: an oracle.

Every function takes θ, the gradient `g(t, θ)`, the learning rate `alpha(t)` and the
number of steps, and returns the path θ_0 ... θ_T, an array (T + 1, n). This file does
not import fnn.
"""

import numpy as np


def sgd(theta, g, alpha, steps):
    path = [theta]
    for t in range(steps):
        theta = theta - alpha(t) * g(t, theta)
        path.append(theta)
    return np.array(path)


def momentum(theta, g, alpha, steps, beta=0.9):
    path, v = [theta], np.zeros_like(theta)
    for t in range(steps):
        v = beta * v - alpha(t) * g(t, theta)
        theta = theta + v
        path.append(theta)
    return np.array(path)


def nesterov(theta, g, alpha, steps, beta=0.9):
    path, v = [theta], np.zeros_like(theta)
    for t in range(steps):
        theta_hat = theta + beta * v
        v = beta * v - alpha(t) * g(t, theta_hat)
        theta = theta + v
        path.append(theta)
    return np.array(path)


def adagrad(theta, g, alpha, steps, small=1e-7):
    path, r = [theta], np.zeros_like(theta)
    for t in range(steps):
        grad = g(t, theta)
        r = r + grad * grad
        theta = theta - alpha(t) / (small + np.sqrt(r)) * grad
        path.append(theta)
    return np.array(path)


def rmsprop(theta, g, alpha, steps, rho=0.9, small=1e-6):
    path, r = [theta], np.zeros_like(theta)
    for t in range(steps):
        grad = g(t, theta)
        r = rho * r + (1 - rho) * grad * grad
        theta = theta - alpha(t) / np.sqrt(small + r) * grad
        path.append(theta)
    return np.array(path)


def rmsprop_momentum(theta, g, alpha, steps, rho=0.9, small=1e-6, beta=0.9):
    path, r, v = [theta], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(steps):
        grad = g(t, theta)
        r = rho * r + (1 - rho) * grad * grad
        v = beta * v - alpha(t) / np.sqrt(small + r) * grad
        theta = theta + v
        path.append(theta)
    return np.array(path)


def rmsprop_nesterov(theta, g, alpha, steps, rho=0.9, small=1e-6, beta=0.9):
    path, r, v = [theta], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(steps):
        theta_hat = theta + beta * v
        grad = g(t, theta_hat)
        r = rho * r + (1 - rho) * grad * grad
        v = beta * v - alpha(t) / np.sqrt(small + r) * grad
        theta = theta + v
        path.append(theta)
    return np.array(path)


def adadelta(theta, g, alpha, steps, rho=0.95, small=1e-6):
    path, mean_g, mean_x = [theta], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(steps):
        grad = g(t, theta)
        mean_g = rho * mean_g + (1 - rho) * grad**2
        change = -np.sqrt(mean_x + small) / np.sqrt(mean_g + small) * grad
        mean_x = rho * mean_x + (1 - rho) * change**2
        theta = theta + alpha(t) * change
        path.append(theta)
    return np.array(path)


def adam(theta, g, alpha, steps, rho1=0.9, rho2=0.999, small=1e-8):
    path, s, r = [theta], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(steps):
        grad = g(t, theta)
        s = rho1 * s + (1 - rho1) * grad
        r = rho2 * r + (1 - rho2) * grad * grad
        s_hat = s / (1 - rho1 ** (t + 1))
        r_hat = r / (1 - rho2 ** (t + 1))
        theta = theta - alpha(t) * s_hat / (np.sqrt(r_hat) + small)
        path.append(theta)
    return np.array(path)
