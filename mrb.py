# naive maskrcnn-benchmark arithmetic against ours, from the same features/logits
import torch, math, numpy as np
import torchvision
from maskrcnn.config import load_config
from maskrcnn.modeling import build_model
from maskrcnn.structures import Sample
torch.manual_seed(0)
def anchors_np(stride,sizes,ratios):
    base=np.array([1,1,stride,stride],float)-1
    def whctrs(a):
        w=a[2]-a[0]+1;h=a[3]-a[1]+1; return w,h,a[0]+.5*(w-1),a[1]+.5*(h-1)
    def mk(ws,hs,x,y):
        ws=np.asarray(ws)[:,None];hs=np.asarray(hs)[:,None]
        return np.hstack((x-.5*(ws-1),y-.5*(hs-1),x+.5*(ws-1),y+.5*(hs-1)))
    w,h,x,y=whctrs(base); s=w*h; sr=s/np.array(ratios); ws=np.round(np.sqrt(sr)); hs=np.round(ws*np.array(ratios))
    an=mk(ws,hs,x,y)
    scales=np.array(sizes)/stride
    out=[]
    for a in an:
        w,h,x,y=whctrs(a); out.append(mk(w*scales,h*scales,x,y))
    return np.vstack(out)   # ratio outer
def decode(d,b,wts):
    w=b[:,2]-b[:,0]+1;h=b[:,3]-b[:,1]+1;cx=b[:,0]+.5*w;cy=b[:,1]+.5*h
    dx,dy,dw,dh=(d[:,i::4]/wts[i] for i in range(4)); clip=math.log(1000/16)
    dw=dw.clamp(max=clip);dh=dh.clamp(max=clip)
    pcx=dx*w[:,None]+cx[:,None];pcy=dy*h[:,None]+cy[:,None];pw=dw.exp()*w[:,None];ph=dh.exp()*h[:,None]
    o=torch.zeros_like(d);o[:,0::4]=pcx-.5*pw;o[:,1::4]=pcy-.5*ph;o[:,2::4]=pcx+.5*pw-1;o[:,3::4]=pcy+.5*ph-1
    return o
def nms(b,s,t):
    order=s.argsort(descending=True).tolist();keep=[]
    ar=(b[:,2]-b[:,0]+1)*(b[:,3]-b[:,1]+1)
    while order:
        i=order.pop(0);keep.append(i)
        rest=[]
        for j in order:
            iw=max(0,(min(b[i,2],b[j,2])-max(b[i,0],b[j,0])+1).item());ih=max(0,(min(b[i,3],b[j,3])-max(b[i,1],b[j,1])+1).item())
            inter=iw*ih
            if inter/(ar[i]+ar[j]-inter).item()<=t: rest.append(j)
        order=rest
    return keep
def clip(b,size):
    h,w=size; b=b.clone(); b[:,0::4].clamp_(0,w-1);b[:,2::4].clamp_(0,w-1);b[:,1::4].clamp_(0,h-1);b[:,3::4].clamp_(0,h-1);return b
cfg=load_config("mask_rcnn/faster_rcnn_r50_fpn_1x_coco",["MODEL.CONVENTIONS","maskrcnn_benchmark","MODEL.NUM_CLASSES","5","MODEL.WEIGHTS","","MODEL.PROPOSALS.PRE_NMS_TOPK_TEST","100","MODEL.PROPOSALS.POST_NMS_TOPK_TEST","60","MODEL.BACKBONE.DEPTH","18","MODEL.BACKBONE.NORM","BN","MODEL.ROI_HEADS.BOX_POOLER.SAMPLING_RATIO","2"])
m=build_model(cfg).eval()
for mod in m.modules():
    if isinstance(mod,torch.nn.BatchNorm2d): mod.weight.data.uniform_(.5,1.5)
m.proposals.objectness.weight.data.normal_(0,.05);m.proposals.deltas.weight.data.normal_(0,.03)
m.roi_heads.box_head.logits.weight.data.normal_(0,.15);m.roi_heads.box_head.deltas.weight.data.normal_(0,.3)
img=torch.randint(0,256,(3,203,251),dtype=torch.uint8)
orig=(401,499)
s=Sample(image=img,image_id=0,original_size=orig)
with torch.no_grad():
    got=m.inference([s])[0]
    ib=m.image_batch([s]); f=m.features(ib); logits,deltas=m.proposals(f)
    size=(203,251); props=[];scs=[]
    for l,(n,st) in enumerate(m.proposals.strides.items()):
        H,W=f[n].shape[-2:]
        c=torch.tensor(anchors_np(st,[32*2**l],[.5,1,2]),dtype=torch.float32)
        yy,xx=torch.meshgrid(torch.arange(H)*st,torch.arange(W)*st,indexing='ij')
        sh=torch.stack([xx,yy,xx,yy],-1).reshape(-1,1,4).float()
        a=(sh+c).reshape(-1,4)
        k=min(100,logits[l].shape[1]); sc,ix=logits[l][0].sigmoid().topk(k)
        b=clip(decode(deltas[l][0][ix],a[ix],(1,1,1,1)),size)
        kp=nms(b,sc,.7)[:60]; props.append(b[kp]);scs.append(sc[kp])
    P=torch.cat(props);S=torch.cat(scs); top=S.topk(min(60,len(S))).indices; P=P[top]
    # level
    sq=((P[:,2]-P[:,0]+1)*(P[:,3]-P[:,1]+1)).sqrt(); lev=torch.floor(4+torch.log2(sq/224+1e-6)).clamp(2,5).long()
    pooled=torch.zeros(len(P),256,7,7)
    for l in range(2,6):
        i=(lev==l).nonzero()[:,0]
        if len(i): pooled[i]=torchvision.ops.roi_align(f[f'p{l}'],[P[i]],7,1/2**l,2,False)
    print('levels',lev.bincount())
    lo,de=m.roi_heads.box_head(pooled)
    pr=lo.softmax(1); de=de.flatten(1)
    bx=clip(decode(de,P,(10,10,5,5)),size)
    res=[]
    for c in range(5):
        i=(pr[:,c]>.05).nonzero()[:,0]
        if len(i)==0: continue
        b=bx[i,4*c:4*c+4];kp=nms(b,pr[i,c],.5)
        for q in kp: res.append((pr[i,c][q].item(),c,b[q]))
    res.sort(key=lambda r:-r[0]); res=res[:100]
    rx,ry=orig[1]/size[1],orig[0]/size[0]
    print(len(res),len(got))
    B=torch.stack([r[2] for r in res])*torch.tensor([rx,ry,rx,ry]); B[:,2:]+=1
    print('score diff',(torch.tensor([r[0] for r in res])-got.scores).abs().max(),'labels',sum(r[1]!=l for r,l in zip(res,got.labels.tolist())))
    print('box diff',(B-got.boxes).abs().max(), got.boxes[:3], B[:3])
