"""Weights that make up for those that became zero: prototype."""
from __future__ import annotations
import numpy as np
from modelopt.quant.numerics.gptq import inverse_factor

def sparsegpt(w, gram, count, damping, block=128, scope="layer"):
    """adaptive; exact count"""
    R,k=w.shape
    U=inverse_factor(gram,damping)
    rest=w.T.astype(np.float64).copy()   # k,R
    gone=np.zeros((k,R),bool)
    done=0
    for s in range(0,k,block):
        e=min(s+block,k)
        quota=count*e//k-done if e<k else count-done
        d=np.diagonal(U)[s:e]
        sc=np.square(rest[s:e]/d[:,None])
        flat=sc.reshape(-1)
        idx=np.argpartition(flat,quota-1)[:quota] if quota else np.zeros(0,int)
        m=np.zeros(flat.size,bool); m[idx]=True
        gone[s:e]=m.reshape(sc.shape); done+=quota
        errs=np.empty((e-s,R))
        for c in range(s,e):
            v=np.where(gone[c],0,rest[c])
            errs[c-s]=(rest[c]-v)/U[c,c]
            rest[c]=v
            rest[c+1:e]-=np.outer(U[c,c+1:e],errs[c-s])
        rest[e:]-=U[s:e,e:].T@errs
    return rest.T, gone.T

def polish(w, start, gone, gram, damping, steps=50):
    """CG on masked LS: min tr((W-V)(H+lI)(W-V)^T), V zero at gone"""
    k=w.shape[1]
    lam=damping*np.trace(gram)/k
    if lam<=0: return start
    H=gram+lam*np.eye(k)
    keep=~gone
    d=np.diagonal(H)
    V=np.where(keep,start,0.0)
    r=((w-V)@H)*keep
    z=r/d
    p=z.copy()
    rz=(r*z).sum(1)
    r0=np.sqrt((np.square(w@H)/d).sum(1))+1e-300
    for _ in range(steps):
        Hp=(p@H)*keep
        pHp=(p*Hp).sum(1)
        a=np.where(pHp>0,rz/np.where(pHp>0,pHp,1),0)[:,None]
        V=V+a*p; r=r-a*Hp
        z=r/d
        new=(r*z).sum(1)
        b=np.where(rz>0,new/np.where(rz>0,rz,1),0)[:,None]
        p=z+b*p; rz=new
        if (np.sqrt(new)<1e-4*r0).all(): break
    return V
